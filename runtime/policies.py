"""The policy in a manifest."""

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Manifest, Policy, StateWords


def policy_of(manifest: Manifest) -> Policy:
    """The policy's rhythm. UserError where the bundle has none."""
    if manifest.policy is None:
        raise UserError(
            f"bundle {manifest.name!r} does not say how many observations it takes",
            "export it with policy=Policy(observations, first, actions) in its spec",
        )
    return manifest.policy


def state_words(manifest: Manifest) -> StateWords | None:
    """The observation that prompts hold as words, or None."""
    form = None if manifest.text is None else manifest.text.form
    return None if form is None else form.state


def action_shape(manifest: Manifest) -> tuple[int, ...]:
    """The shape of one action of a policy, without x's padding."""
    width = policy_of(manifest).width
    return manifest.x_shape[1:] if width is None else (width,)
