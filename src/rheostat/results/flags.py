"""What can be raised beside a number: each flag's condition, why it matters and what to do, as data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Flag:
    """A flag of a result row; `docs/evaluation.md` is made of these."""

    name: str
    group: str
    raised_if: str
    why: str
    what: str


GROUPS = {
    "model": "The model violates the attack's assumptions",
    "attack": "The attack is not what its row says",
    "masking": "Gradients are masked",
    "strength": "A stronger attack is available",
    "training": "Training went wrong",
}

ALL = (
    Flag(
        "random-output",
        "model",
        "two passes over the same images give different logits and the point declares no noise",
        "an attack that follows one draw of a random gradient looks weaker than it is",
        'remove the noise; or declare it (FLOAT: `draw="sampled"`; your own method: override `randomised`) and attack '
        "with `pgd20-eot20`",
    ),
    Flag(
        "randomised-without-eot",
        "model",
        "the point draws noise and a gradient was averaged over fewer than 20 draws",
        "noise that an attacker can average away is not robustness (Athalye et al. 2018)",
        "attack with `pgd20-eot20`; report the mean over fresh draws",
    ),
    Flag(
        "probabilities",
        "model",
        "outputs lie in [0, 1] and sum to 1",
        "the softmax of a softmax flattens the loss, and margins are bounded",
        "return logits",
    ),
    Flag(
        "constant-predictor",
        "model",
        "every image of the sample gets the same class, though their labels differ",
        "such a model classifies one class correctly whatever the image, so no attack can lower its accuracy",
        "check the range of the pixels, the weights, and whether training converged",
    ),
    Flag(
        "train-mode",
        "model",
        "a module that behaves differently in training was left in train mode",
        "batch statistics let the images of a batch change each other's prediction",
        "call `.eval()` before measuring",
    ),
    Flag(
        "untargeted-set",
        "model",
        "the data have fewer than 4 classes, so that targeted DLR losses are not defined",
        "the tier runs APGD-CE, PGD on the margin and Square instead",
        "interpret the figure as that of these attacks",
    ),
    Flag(
        "outside-threat-model",
        "attack",
        "an attack returned an image outside the ball or outside [0, 1]",
        "such an image violates the threat model, so it does not count",
        "report it as a bug of the attack, which must project its images",
    ),
    Flag(
        "success-not-verified",
        "attack",
        "an image that fooled the model did not fool it again in another batch",
        "the model's output depends on the rest of the batch or on earlier inputs",
        "look for state, batch statistics or undeclared noise",
    ),
    Flag(
        "weak-budget",
        "attack",
        "steps · step size is below 2 · eps for every attack of the row",
        "the attack cannot cross the ball",
        "add an attack of several steps, such as `pgd20`, with the default `--step-size`; FGSM alone always raises "
        "this flag",
    ),
    Flag(
        "eps-0-differs",
        "attack",
        "robust accuracy at eps 0 is not the clean accuracy",
        "the attack changes images at eps 0, or the model is random",
        "check the attack's projection, and random-output",
    ),
    Flag(
        "zero-gradients",
        "masking",
        "the loss has a gradient of exactly 0, or NaN, on more than 3 images and 1 % of the sample",
        "a gradient attack cannot start: rounding, saturation or a detached graph removes the gradient",
        "attack with `pgd50-margin` and `square5000`; replace the layer by a smooth approximation and attack that",
    ),
    Flag(
        "not-falling-in-eps",
        "masking",
        "robust accuracy rises with eps by more than its paired interval",
        "the larger ball contains the smaller one, so a higher accuracy means that the attack is stuck",
        "use more steps, more restarts or another loss; check zero-gradients",
    ),
    Flag(
        "large-eps-survives",
        "masking",
        "accuracy stays above chance at an eps where every image can be made grey",
        "no model can be robust at that eps, so the attack fails for another reason",
        "as for zero-gradients",
    ),
    Flag(
        "one-step-better",
        "masking",
        "one step (FGSM) fools more images than many steps do, by more than 1 point, 3 images and the paired interval",
        "a curved or masked loss misleads an attack of many small steps",
        "restarts and smaller steps; `mi-fgsm`; look for masking",
    ),
    Flag(
        "on-grid-gain",
        "masking",
        "adversarial images rounded to 8 bits inside the ball fool the model more often than as the attacks returned "
        "them, by more than 1 point, 3 images and the paired interval",
        "the model may detect pixels that are not multiples of 1/255, and be robust only on those",
        "read `robust_accuracy_rounded`; attack the model behind a layer that rounds, with a straight-through gradient",
    ),
    Flag(
        "loss-still-moving",
        "strength",
        "the last tenth of the steps contributes more than 5 % of the total rise of the loss",
        "the attack stopped before it converged (Pintor et al. 2022)",
        "more steps",
    ),
    Flag(
        "steps-gain",
        "strength",
        "twice as many steps lower the robust accuracy by more than 1 point, 3 images and the paired interval",
        "the reported accuracy is an upper bound that is not tight",
        "`standard`, or more steps",
    ),
    Flag(
        "restarts-gain",
        "strength",
        "five more random starts lower the robust accuracy by more than 1 point, 3 images and the paired interval",
        "the reported accuracy depends on the random start",
        "`standard`, or `pgd50x5`",
    ),
    Flag(
        "square-gain",
        "strength",
        "Square lowers the robust accuracy under white-box attacks by more than 0.2 point, 3 images and the paired "
        "interval",
        "random search beats gradients only if gradients are masked",
        "use `full`, or an attack designed for this model",
    ),
    Flag(
        "quick-too-weak",
        "strength",
        "`pgd20` is the first attack, and RA under it alone is more than 3 points above RA under all attacks",
        "curves of `quick` overestimate the robustness of this model",
        "draw its curves with `standard`",
    ),
    Flag(
        "transfer-beats-known",
        "strength",
        "images made at another point of the dial fool the model more often than images made at the scored point, by "
        "more than 1 point, 3 images and the paired interval",
        "the point masks its own gradients",
        "report the worst case over points (`chosen`); look for masking at that point",
    ),
    Flag(
        "fast-attack-collapse",
        "training",
        "single-step robust accuracy rises while PGD's falls",
        "the network learned to fool the weak attack it was trained with",
        "more steps in training, or N-FGSM with smaller eps",
    ),
    Flag(
        "robust-overfitting",
        "training",
        "robust accuracy falls on calibrate-fit while it rises on the training images",
        "the last weights are less robust than earlier ones",
        "keep the selected epoch (the default); fewer epochs, weight decay",
    ),
    Flag(
        "calibration-failed",
        "training",
        "the dial's scale or the exit policy could not be fitted after training",
        "the dial shows the training λ instead of an even scale of robust accuracy, or exits have no thresholds",
        "`rheostat info` says why; train longer, or set another `policy`; the weights are not affected",
    ),
)

NAMES = {flag.name: flag for flag in ALL}


def page() -> str:
    """The groups of flags as Markdown: raised if, why, what to do."""
    parts = []
    for group, title in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [
            f"### `{flag.name}`\n\n- **Raised if** {flag.raised_if}.\n- **Why it matters**: {flag.why}.\n"
            f"- **What to do**: {flag.what}.\n"
            for flag in ALL
            if flag.group == group
        ]
    return "\n".join(parts)
