"""The plug-in in LeRobot's own process: `python ask_plugin.py BUNDLE`, in an environment with LeRobot and the plug-in.

Prints one line of JSON: actions of two environments, a sequence that continues another, whether LeRobot's real-time
chunking accepts the policy, and the error for more executed actions than a sequence has.
"""

import json
import sys

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors
from lerobot.rollout.inference.rtc import supports_rtc_inference
from lerobot.utils.import_utils import register_third_party_plugins

from fewstep.plans.errors import UserError


def main(bundle: str) -> None:
    register_third_party_plugins()
    config = PreTrainedConfig.from_pretrained(bundle, cli_overrides=["--plan=ddim:2"])
    policy = get_policy_class(config.type).from_pretrained(bundle, config=config)
    before, after = make_pre_post_processors(config, pretrained_path=bundle)
    states = torch.tensor([[0.0, 0.2], [1.0, 1.2]])
    observation = {"observation.state": states, "observation.environment_state": torch.zeros(2, 16), "task": ["", ""]}
    policy.reset()
    sent = [after(policy.select_action(before(dict(observation)))).tolist() for _ in range(5)]
    policy.reset()
    one = {name: value[:1] for name, value in observation.items()}
    former = torch.full((1, 5, 2), 7.0)
    continued = policy.predict_action_chunk(before(one), inference_delay=2, prev_chunk_left_over=former)
    answer = {"sent": sent, "continued": continued[0].tolist(), "rtc": supports_rtc_inference(policy)}
    print(json.dumps(answer | {"refused": [refusal(bundle, steps) for steps in (0, 8)]}))


def refusal(bundle: str, steps: int) -> str:
    config = PreTrainedConfig.from_pretrained(bundle, cli_overrides=[f"--n_action_steps={steps}"])
    try:
        get_policy_class(config.type).from_pretrained(bundle, config=config)
    except UserError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    main(sys.argv[1])
