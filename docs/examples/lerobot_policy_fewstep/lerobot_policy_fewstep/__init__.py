"""A plug-in of LeRobot: bundles of fewstep as policies of type `fewstep`.

    pip install docs/examples/lerobot_policy_fewstep
    python -m lerobot_policy_fewstep policy
    lerobot-eval --policy.path=policy --env.type=pusht

The second command writes LeRobot's config and processors into the folder of a bundle.
"""

from lerobot_policy_fewstep.configuration_fewstep import FewstepConfig
from lerobot_policy_fewstep.modeling_fewstep import FewstepPolicy
from lerobot_policy_fewstep.processor_fewstep import make_fewstep_pre_post_processors

__all__ = ["FewstepConfig", "FewstepPolicy", "make_fewstep_pre_post_processors"]
