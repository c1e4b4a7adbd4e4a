"""The schema of a result row: one measurement of one point under one attack, or under the worst of several.

`Measurement` describes what is measured and is known in advance; `Row` adds the results. A file of rows holds one
JSON object per line, without fields that do not apply. `migration` converts rows of versions 1 and 2.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rheostat.runtime.seeding import seed_of

VERSION: Literal[3] = 3
"""The version of the schema that this package writes."""
Number = int | float
At = dict[str, float]
"""Dial names to positions."""


class Part(BaseModel):
    """A value of the schema: immutable, without fields that the schema does not define."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class AttackEntry(Part):
    """An attack and its budget in units of [0, 1]; for a worst case, the attacks that it covers."""

    name: str = Field(
        description="The attack's name; `worst` (the worst case per example), `transfer`, `unknown` or `chosen`."
    )
    eps: float = Field(description="Radius.")
    norm: str = Field(description="`linf` or `l2`.")
    steps: int | None = Field(None, description="Steps, or queries of Square.")
    step_size: float | None = Field(None, description="Size of a step.")
    restarts: int | None = Field(None, description="Random starts.")
    loss: str | None = Field(None, description="The loss that is maximised.")
    form: str | None = Field(
        None, description="What is attacked: `direct`, or a form of a multi-exit model (`average`)."
    )
    eot: int | None = Field(None, description="Draws that a gradient is averaged over.")
    of: list[str | At] | None = Field(None, description="The attacks of a worst case; the points of a `chosen` one.")
    made_at: At | None = Field(None, description="The point that the images were made at, where it is another.")
    lent: list[str] | None = Field(
        None, alias="from", description="The points whose images a warm start tried (written `from`)."
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the attacks that ran: those of a worst case, else this attack's name."""
        return (self.name,) if self.of is None else tuple(n for n in self.of if isinstance(n, str))

    def plain(self) -> dict[str, Any]:
        """The entry as a JSON-compatible dict."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class CorruptionEntry(Part):
    """A common corruption of the images, made by definition and from a fixed seed."""

    name: str = Field(description="The kind: `gaussian-noise`, `fog`, `jpeg` and so on.")
    severity: int = Field(description="1 to 5.")


class Train(Part):
    """How the model was trained, as far as its file says."""

    epochs: int | None = Field(None, description="Epochs.")
    images: int | None = Field(None, description="Images of the training set; absent: all.")
    attack: dict[str, Any] | None = Field(None, description="The attack of training, as the recipe has it.")
    seed: int | None = Field(None, description="Seed of training.")
    robustness: Number | None = Field(None, description="λ of a network that was trained for one λ.")
    precision: str | None = Field(None, description="Precision of the steps: `fp32` or `bf16`; absent: not known.")
    seconds: float | None = Field(None, description="Seconds that training took.")


class Interval(Part):
    """Exact (Clopper–Pearson) intervals."""

    level: float = Field(description="The level, 0.95.")
    clean: tuple[float, float] = Field(description="Of the clean accuracy.")
    robust: tuple[float, float] = Field(description="Of the robust accuracy.")


class Macs(Part):
    """Multiply-accumulates of one image: over images, where exits are live."""

    mean: Number = Field(description="Mean.")
    p50: Number = Field(description="Median.")
    p99: Number = Field(description="99th percentile.")


class ExitShares(Part):
    """The share of images that leave by each exit."""

    clean: list[float] | None = Field(None, description="Of clean images.")
    attacked: list[float] | None = Field(None, description="Of attacked images.")


class Draws(Part):
    """Accuracies of a randomised point on each fresh draw of its noise."""

    clean: list[float] = Field(description="Clean accuracy, a number a draw.")
    robust: list[float] = Field(description="Robust accuracy, a number a draw.")


class Check(Part):
    """A raised flag with the figures that raised it."""

    flag: str = Field(description="The flag's name; docs/evaluation.md explains each.")
    figures: dict[str, float] = Field(default_factory=dict, description="The figures, by what they are.")
    made_at: At | str | None = Field(None, description="Where the images were made that did more harm.")


class PerClass(Part):
    """Accuracies of every class; null for a class without images."""

    classes: list[str] = Field(description="Names.")
    clean: list[float | None] = Field(description="Clean accuracy of each.")
    robust: list[float | None] = Field(description="Robust accuracy of each.")


class Calibration(Part):
    """Calibration on clean images: how far confidence is from accuracy (Guo et al. 2017)."""

    ece: float = Field(description="Expected calibration error over 15 equal bins of confidence.")
    bins: list[tuple[float, float, float]] = Field(
        description="Of each bin that is not empty: mean confidence, accuracy, share of images."
    )


class Hardware(Part):
    """What the numbers were measured on."""

    device: str = Field(description="Processor or accelerator.")
    cores: int | None = Field(None, description="Cores, of a processor.")
    threads: int = Field(description="Threads that torch used.")


class Measurement(Part):
    """What is measured: model, data, point, attack, and what the attacker knows."""

    version: Literal[3] = Field(VERSION, description="Version of the schema.")
    run: str = Field(description="The run's name.")
    artifact: str = Field(description="Hash of the model: of weights, composition, network and dial map.")
    composition: str | None = Field(None, description="The paper's name of the composition.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Every method option that is not the default.")
    train: Train = Field(default_factory=Train, description="How it was trained.")
    net: dict[str, Any] | str = Field(description="The network's specification; the class of anybody's module.")
    dataset: str = Field(description="Data set.")
    dataset_hash: str | None = Field(None, description="Hash of the very images and labels.")
    split: str = Field(description="`test`, `calibrate-fit` or `calibrate-choose`.")
    at: At = Field(description="The point: dial names to positions. Empty where there are no dials.")
    rule: str | None = Field(
        None, description="How λ chooses norm sets where this is not the model's own dial: `at-0`, `blend`."
    )
    dial: Literal["lambda", "t"] | None = Field(
        None, description="What a position of `robustness` is: training λ, or t of a calibrated dial."
    )
    tier: str = Field(description="The tier that chose the attacks: `quick`, `standard`, `full`; or `corruptions`.")
    tier_version: int = Field(1, description="Version of the tiers: of their attacks and of how images are judged.")
    knowledge: Literal["known", "transfer", "unknown", "chosen", "none"] = Field(
        "known", description="What the attacker knows of the dial; `none`: nobody attacks."
    )
    n: int = Field(description="Images.")
    seed: int = Field(description="Seed of random starts, or of corruptions.")
    precision: str = Field(
        "fp32", description="Precision that was judged in; `bf16` and `int8` are those of an exported file."
    )
    attack_precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Precision of the attacks' gradients; with `bf16` their last steps were made again in fp32."
    )
    corruption: CorruptionEntry | None = Field(
        None, description="The corruption of the images; of rows of tier `corruptions`, in which nobody attacks."
    )
    attack: AttackEntry = Field(description="The attack.")
    cumulative: bool = Field(False, description="Whether it ran only on images that earlier attacks failed to fool.")

    @property
    def identity(self) -> str:
        """16 hex digits that identify the measurement; they are the same for a row of version 1."""
        parts: list[object] = [
            self.run,
            self.artifact,
            self.dataset,
            self.split,
            self.at,
            self.rule,
            self.attack.plain(),
            self.tier,
            self.cumulative,
            self.knowledge,
            self.n,
            self.seed,
        ]
        if self.tier_version > 1:
            parts.append(self.tier_version)
        if self.attack_precision != "fp32":
            parts.append(["attack precision", self.attack_precision])
        if self.precision != "fp32":
            parts.append(["precision", self.precision])
        if self.corruption is not None:
            parts.append(self.corruption.model_dump(mode="json"))
        return f"{seed_of(json.dumps(parts, sort_keys=True)):016x}"


class Row(Measurement):
    """One measurement and what it found. Accuracies are fractions; fields that do not apply are absent."""

    clean_accuracy: float = Field(description="Accuracy on clean images (SA).")
    robust_accuracy: float = Field(
        description="Accuracy on attacked images (RA): worst case per example, from version 2 of the tiers also over "
        "each image as the attack returned it and the same image rounded to 8 bits. Where images are corrupted: SA on "
        "the corrupted images."
    )
    robust_accuracy_returned: float | None = Field(
        None, description="RA if the attacks' images counted only as they were returned (pixels of any value)."
    )
    robust_accuracy_rounded: float | None = Field(
        None, description="RA if they counted only rounded to 8 bits inside the ball (pixels k/255)."
    )
    interval: Interval = Field(description="Intervals of both.")
    params: int = Field(description="Parameters.")
    nonzeros: int = Field(description="Parameters that are not zero.")
    macs: Macs = Field(description="Cost of a clean image.")
    macs_nonzero: int | None = Field(None, description="MACs without those by zero weights.")
    convolution_nonzeros: int | None = Field(None, description="Convolution weights that are not zero.")
    exit_shares: ExitShares | None = Field(
        None, description="Share of images that leave by each exit, where exits are live."
    )
    macs_static: int | None = Field(None, description="Cost of the network without its exits.")
    macs_papers_count: float | None = Field(None, description="Mean cost of a clean image as the paper counts it.")
    macs_attacked: Macs | None = Field(None, description="Cost of an attacked image, where exits are live.")
    macs_attacked_papers_count: float | None = Field(None, description="Its mean as the paper counts it.")
    draws: Draws | None = Field(None, description="Accuracies on each draw of a randomised point.")
    seconds: float | None = Field(None, description="Seconds that the attack took.")
    queries: int | None = Field(None, description="Forward passes of an image.")
    versions: dict[str, str] = Field(description="Versions of what decides a number.")
    hardware: Hardware = Field(description="What it was measured on.")
    flags: list[str] = Field(default_factory=list, description="Names of the flags raised.")
    checks: list[Check] | None = Field(None, description="Raised flags with their figures; of a worst case.")
    per_class: PerClass | None = Field(None, description="Accuracies by class; of a worst case.")
    calibration: Calibration | None = Field(None, description="Calibration on clean images; of a worst case.")
    eps_curve: list[tuple[float, float]] | None = Field(
        None, description="(eps, robust accuracy) on a sample, where more attacks probed the model."
    )
    loss_curve: list[float] | None = Field(None, description="The attack's mean loss at each step, likewise.")
    examples: str | None = Field(None, description="File of the worst images, beside the file of rows.")
    bits: str | None = Field(None, description="Of rows of version 1: their own file of bits, beside the file of rows.")

    def accuracy(self, kind: str) -> tuple[float, tuple[float, float]]:
        """The "clean" or the "robust" accuracy, and its interval."""
        if kind == "clean":
            return self.clean_accuracy, self.interval.clean
        return self.robust_accuracy, self.interval.robust

    def plain(self) -> dict[str, Any]:
        """The row as a JSON-compatible dict without fields that do not apply."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)
