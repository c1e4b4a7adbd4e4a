"""Runtimes of an exported ONNX file on the CPU: ONNX Runtime, and OpenVINO (bf16 on chips that support it).

A graph is one file, ready to run; `Session` combines the graphs of a model.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import numpy as np
import numpy.typing as npt

from rheostat.runtime.choices import check_choice

KEY = "rheostat"
"""The metadata key of a file's description."""
Array = npt.NDArray[np.float32]
Precision = Literal["auto", "fp32", "bf16"]
PRECISIONS = ("auto", "fp32", "bf16")


def as_precision(text: str) -> Precision:
    """A precision by its name; raises ValueError with the nearest name."""
    check_choice("a session", "precision", text, PRECISIONS)
    return cast(Precision, text)


class Graph(Protocol):
    """One file ready to run; several threads may call `run` at once."""

    description: str | None
    """The text under `KEY` in the file's metadata, or None."""
    precision: str
    """The precision of its products: fp32 or bf16."""

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """The outputs of named inputs, in the file's order; this thread's next run may overwrite them."""
        ...


class OnnxRuntimeGraph:
    """A file under ONNX Runtime, in the precision in which it was written."""

    precision = "fp32"

    def __init__(self, path: Path, *, threads: int | None, spin: bool) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("ONNX files need ONNX Runtime: pip install 'rheostat[deploy]'") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors have no common class
            raise ValueError(f"{path}: not an ONNX file that ONNX Runtime accepts ({error})") from None
        self.description = self._session.get_modelmeta().custom_metadata_map.get(KEY)

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """The outputs of named inputs, in the file's order."""
        found: list[Array] = self._session.run(None, dict(feed))
        return found


class OpenVinoGraph:
    """A file under OpenVINO; with bf16, products are in bf16, inputs and outputs in fp32."""

    def __init__(self, path: Path, *, threads: int | None, precision: Precision) -> None:
        try:
            import openvino
        except ImportError:
            raise ValueError("this backend needs OpenVINO: pip install 'rheostat[openvino]'") from None
        # Read it as ONNX first: for another file, OpenVINO tries the readers of every framework.
        self.description = _description(path)
        core = openvino.Core()
        native = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if precision == "bf16" and not native:
            raise ValueError("this CPU does not multiply bf16 natively; use precision fp32 or auto")
        self.precision = "bf16" if native and precision != "fp32" else "fp32"
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "bf16" if self.precision == "bf16" else "f32",
            "PERFORMANCE_HINT": "LATENCY",
        }
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        try:
            model = core.read_model(str(path))
            self._compiled = core.compile_model(model, "CPU", options)
        except Exception as error:  # RuntimeErrors and errors of its parsers
            raise ValueError(f"{path}: not an ONNX file that OpenVINO accepts ({_reason(error)})") from None
        self._local = threading.local()

    def run(self, feed: Mapping[str, Array]) -> list[Array]:
        """The outputs of named inputs, in the file's order."""
        if not hasattr(self._local, "request"):  # a request holds buffers, so each thread needs its own
            self._local.request = self._compiled.create_infer_request()
        own = {k: np.ascontiguousarray(v) for k, v in feed.items()}
        done = self._local.request.infer(own, share_inputs=True, share_outputs=True)
        return [done[output] for output in self._compiled.outputs]


def _description(path: Path) -> str | None:
    try:
        import onnx
    except ImportError:
        raise ValueError("exported files need the package onnx: pip install 'rheostat[deploy]'") from None
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's errors have no common class
        raise ValueError(f"{path}: not an ONNX file ({' '.join(str(error).split())[:200]})") from None
    found: dict[str, str] = {p.key: p.value for p in model.metadata_props}
    return found.get(KEY)


def _reason(error: Exception) -> str:
    """The message of OpenVINO's multi-line report, without references to its source code."""
    noise = ("Exception from", "Check ", "FrontEnd API", "-- ", "While validating", "Summary:")
    lines = [line.strip(" -") for line in str(error).splitlines() if line.strip() and not line.startswith(noise)]
    return "; ".join(lines)[:300] or type(error).__name__


RUNTIMES = ("onnx", "openvino")


def open_graph(
    path: Path, *, runtime: str = "onnx", precision: Precision = "fp32", threads: int | None = None, spin: bool = True
) -> Graph:
    """Open a file with a runtime; raises ValueError for a missing file or package, or an unsupported precision.

    ONNX Runtime runs a file in the precision in which it was written. OpenVINO can run it in bf16; `auto` does so
    if the chip multiplies bf16 natively (AMX, or avx512_bf16).
    """
    check_choice("a session", "runtime", runtime, RUNTIMES)
    check_choice("a session", "precision", precision, PRECISIONS)
    if not path.is_file():
        raise ValueError(f"no file {path}")
    if runtime == "openvino":
        return OpenVinoGraph(path, threads=threads, precision=precision)
    if precision == "bf16":
        raise ValueError("ONNX Runtime has no bf16 on CPUs; use runtime='openvino' or precision fp32")
    return OnnxRuntimeGraph(path, threads=threads, spin=spin)
