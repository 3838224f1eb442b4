"""Write LeRobot's config and processors into the folder of a bundle: python -m lerobot_policy_fewstep BUNDLE."""

import sys
from pathlib import Path

from fewstep.plans.errors import UserError
from lerobot_policy_fewstep.configuration_fewstep import make_config
from lerobot_policy_fewstep.processor_fewstep import make_fewstep_pre_post_processors


def main(bundle: str) -> None:
    folder = Path(bundle)
    config = make_config(folder)
    config.save_pretrained(folder)
    for processor in make_fewstep_pre_post_processors(config):
        processor.save_pretrained(folder)
    print(f"{folder} is a policy for --policy.path: {', '.join(config.input_features)}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m lerobot_policy_fewstep BUNDLE")
    try:
        main(sys.argv[1])
    except UserError as error:
        sys.exit(f"lerobot_policy_fewstep: {error}")
