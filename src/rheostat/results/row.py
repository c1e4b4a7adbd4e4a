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

    def plain(self) -> dict[str, Any]:
        """The value as a JSON-compatible dict without fields that do not apply."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class AttackEntry(Part):
    """An attack and its budget in units of [0, 1]; for a worst case, the attacks that it covers."""

    name: str = Field(
        description="Name of the attack, or `worst` (the worst case per example), `transfer`, `unknown` or `chosen`."
    )
    eps: float = Field(description="Radius of the ball.")
    norm: str = Field(description="`linf` or `l2`.")
    steps: int | None = Field(None, description="Number of steps; for Square, of queries.")
    step_size: float | None = Field(None, description="Size of one step.")
    restarts: int | None = Field(None, description="Number of random starts.")
    loss: str | None = Field(None, description="Loss that the attack maximises.")
    form: str | None = Field(
        None,
        description="Form of the attack: `direct` (on the logits), or one that the method defines, such as `average`.",
    )
    eot: int | None = Field(None, description="Number of noise draws over which each gradient is averaged.")
    start: bool | None = Field(None, description="Whether it starts at random; absent if its name implies it.")
    momentum: float | None = Field(None, description="Momentum of the steps; absent if its name implies it.")
    drop: bool | None = Field(None, description="Whether it stops at a success; absent if its name implies it.")
    attacks: list[str] | None = Field(
        None,
        description="Attacks whose images were used at other points (transfer, warm start); absent if they are those "
        "of the tier.",
    )
    budgets: list[dict[str, Any]] | None = Field(
        None,
        description="Attacks that this row depends on and whose settings differ from those that their names imply: "
        "`name`, and the settings that differ.",
    )
    of: list[str | At] | None = Field(
        None, description="For `worst`, the attacks that it covers; for `chosen`, the points that it covers."
    )
    made_at: At | None = Field(
        None, description="Point at which the adversarial images were made, if it is not the scored point."
    )
    lent: list[str] | None = Field(
        None,
        alias="from",
        description="Points whose adversarial images the warm start tried. In Python the field is `lent`.",
    )

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the attacks that ran: those of a worst case, else this attack's name."""
        return (self.name,) if self.of is None else tuple(n for n in self.of if isinstance(n, str))


class CorruptionEntry(Part):
    """A common corruption of the images, made by its published definition and from a fixed seed."""

    name: str = Field(description="Kind of corruption, such as `gaussian-noise`, `fog` or `jpeg`.")
    severity: int = Field(description="Severity, from 1 to 5.")


class Train(Part):
    """How the model was trained, as far as its file records it."""

    epochs: int | None = Field(None, description="Number of epochs.")
    images: int | None = Field(None, description="Number of training images; absent if all were used.")
    attack: dict[str, Any] | None = Field(None, description="Training attack, as in the recipe.")
    seed: int | None = Field(None, description="Seed of the training run.")
    robustness: Number | None = Field(None, description="λ, if the network was trained for one λ.")
    precision: str | None = Field(
        None, description="Precision of the training steps, `fp32` or `bf16`; absent if not known."
    )
    seconds: float | None = Field(None, description="Duration of training in seconds.")


class Interval(Part):
    """Exact (Clopper–Pearson) intervals of both accuracies."""

    level: float = Field(description="Confidence level, 0.95.")
    clean: tuple[float, float] = Field(description="Interval of the clean accuracy.")
    robust: tuple[float, float] = Field(description="Interval of the robust accuracy.")


class Macs(Part):
    """Multiply-accumulate operations (MACs) per image. If exits are live, they vary from image to image."""

    mean: Number = Field(description="Mean over the images.")
    p50: Number = Field(description="Median.")
    p99: Number = Field(description="99th percentile.")


class ExitShares(Part):
    """The share of the images that leave by each exit."""

    clean: list[float] | None = Field(None, description="Shares of the clean images, by exit.")
    attacked: list[float] | None = Field(None, description="Shares of the attacked images, by exit.")


class Draws(Part):
    """Accuracies of a randomised point, one for each fresh draw of its noise."""

    clean: list[float] = Field(description="Clean accuracy on each draw.")
    robust: list[float] = Field(description="Robust accuracy on each draw.")


class Check(Part):
    """A raised flag, with the figures for which it was raised."""

    flag: str = Field(description="Name of the flag; docs/evaluation.md explains each one.")
    figures: dict[str, float] = Field(default_factory=dict, description="The figures, by name.")
    made_at: At | str | None = Field(
        None, description="Point at which the images that fooled the model more often were made."
    )


class PerClass(Part):
    """Accuracies of each class; null for a class without images."""

    classes: list[str] = Field(description="Names of the classes.")
    clean: list[float | None] = Field(description="Clean accuracy of each class.")
    robust: list[float | None] = Field(description="Robust accuracy of each class.")


class Calibration(Part):
    """Calibration on clean images: how far the confidence is from the accuracy (Guo et al. 2017)."""

    ece: float = Field(description="Expected calibration error over 15 bins of equal width.")
    bins: list[tuple[float, float, float]] = Field(
        description="Mean confidence, accuracy and share of the images, for each bin that is not empty."
    )


class Hardware(Part):
    """The machine on which the numbers were measured."""

    device: str = Field(description="Name of the processor or accelerator.")
    cores: int | None = Field(None, description="Number of cores, for a processor.")
    threads: int = Field(description="Number of threads that torch used.")


class Measurement(Part):
    """What is measured: model, data, point, attack, and what the attacker knows."""

    version: Literal[3] = Field(VERSION, description="Version of the schema.")
    run: str = Field(description="Name of the run.")
    artifact: str = Field(description="Hash of the model: its weights, composition, network and dial map.")
    composition: str | None = Field(None, description="Name of the composition, such as `oat`.")
    settings: dict[str, Any] = Field(default_factory=dict, description="Method options that differ from the defaults.")
    train: Train = Field(default_factory=Train, description="How the model was trained.")
    net: dict[str, Any] | str = Field(description="Specification of the network; for an adopted module, its class.")
    dataset: str = Field(description="Name of the data set.")
    dataset_hash: str | None = Field(None, description="Hash of the images and labels that were used.")
    split: str = Field(description="Split of the data: `test`, `calibrate-fit`, `calibrate-choose` or `train`.")
    at: At = Field(description="The point, as the position of each dial; empty if the model has no dials.")
    rule: str | None = Field(
        None, description="Rule that replaced the model's own dial and maps λ to norm sets: `at-0`, `blend`."
    )
    dial: Literal["lambda", "t"] | None = Field(
        None, description="Scale of `robustness`: the λ of training, or the t of a calibrated dial."
    )
    tier: str = Field(description="Tier that selects the attacks: `quick`, `standard` or `full`; or `corruptions`.")
    tier_version: int = Field(1, description="Version of the tiers: their attacks and the scoring of images.")
    knowledge: Literal["known", "transfer", "unknown", "chosen", "none"] = Field(
        "known", description="What the attacker knows of the dial; `none` if nobody attacks."
    )
    n: int = Field(description="Number of images.")
    seed: int = Field(description="Seed of the random starts or of the corruptions.")
    precision: str = Field(
        "fp32",
        description="Precision in which images were scored; `bf16`, `int8` and `int8-openvino` are those of an "
        "exported file.",
    )
    attack_precision: Literal["fp32", "bf16"] = Field(
        "fp32",
        description="Precision of the attacks' gradients. With `bf16`, an image that fails to fool in fp32 repeats the "
        "last steps in fp32.",
    )
    corruption: CorruptionEntry | None = Field(
        None, description="Corruption of the images, in rows of the tier `corruptions`, in which nobody attacks."
    )
    attack: AttackEntry = Field(description="The attack, or the worst case of several.")
    cumulative: bool = Field(
        False, description="Whether the attack ran only on images that earlier attacks failed to fool."
    )

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

    clean_accuracy: float = Field(description="Standard accuracy (SA): the accuracy on clean images.")
    robust_accuracy: float = Field(
        description="Robust accuracy (RA): the accuracy on attacked images, in the worst case per example. From "
        "version 2 of the tiers, this covers each image as the attack returned it and rounded to 8 bits. In rows of "
        "the tier `corruptions`: SA on the corrupted images."
    )
    robust_accuracy_returned: float | None = Field(
        None, description="RA if only the images as the attacks returned them counted (pixels of any value)."
    )
    robust_accuracy_rounded: float | None = Field(
        None, description="RA if only the images rounded to 8 bits inside the ball counted (pixels k/255)."
    )
    interval: Interval = Field(description="Intervals of both accuracies.")
    params: int = Field(description="Number of parameters.")
    nonzeros: int = Field(description="Number of parameters that are not zero.")
    macs: Macs = Field(description="Operations for a clean image.")
    macs_nonzero: int | None = Field(None, description="MACs without multiplications by zero weights.")
    convolution_nonzeros: int | None = Field(None, description="Number of convolution weights that are not zero.")
    exit_shares: ExitShares | None = Field(
        None, description="Share of the images that leave by each exit, if exits are live."
    )
    macs_static: int | None = Field(None, description="MACs of the network without its exits.")
    macs_papers_count: float | None = Field(
        None, description="Mean MACs for a clean image, counted as in the paper: without the heads of earlier exits."
    )
    macs_attacked: Macs | None = Field(None, description="Operations for an attacked image, if exits are live.")
    macs_attacked_papers_count: float | None = Field(
        None, description="Mean MACs for an attacked image, counted as in the paper."
    )
    draws: Draws | None = Field(None, description="Accuracies on each draw of noise, at a randomised point.")
    seconds: float | None = Field(None, description="Duration of the attack in seconds.")
    queries: int | None = Field(None, description="Forward passes in total; a batch of k images counts as k.")
    versions: dict[str, str] = Field(description="Versions of the software that determines the numbers.")
    hardware: Hardware = Field(description="Machine on which it was measured.")
    flags: list[str] = Field(default_factory=list, description="Names of the raised flags.")
    checks: list[Check] | None = Field(None, description="Raised flags with their figures; only for a worst case.")
    per_class: PerClass | None = Field(None, description="Accuracies by class; only for a worst case.")
    calibration: Calibration | None = Field(None, description="Calibration on clean images; only for a worst case.")
    eps_curve: list[tuple[float, float]] | None = Field(
        None, description="Pairs (eps, robust accuracy) on a sample of the images, if the model was probed."
    )
    loss_curve: list[float] | None = Field(
        None, description="Mean loss of the attack after each step, if the model was probed."
    )
    examples: str | None = Field(
        None, description="Name of the file of the worst images, which lies beside the file of rows."
    )
    bits: str | None = Field(
        None, description="Only in rows of version 1: name of the file of their bits, beside the file of rows."
    )

    def accuracy(self, kind: str) -> tuple[float, tuple[float, float]]:
        """The "clean" or the "robust" accuracy, and its interval."""
        if kind == "clean":
            return self.clean_accuracy, self.interval.clean
        return self.robust_accuracy, self.interval.robust
