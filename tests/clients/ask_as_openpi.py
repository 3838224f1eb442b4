"""openpi's own client against a server: `python ask_as_openpi.py PORT`, in an environment with openpi-client.

Prints one line of JSON: the actions of a broker, and the line for an observation that cannot be used.
"""

import json
import sys

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

SEEN = {
    "observation/state": np.array([0.0, 0.1, 0.2], np.float32),
    "observation/images/cam0": np.zeros((24, 32, 3), np.uint8),
    "prompt": "stand",
}


def main(port: str) -> None:
    policy = WebsocketClientPolicy("127.0.0.1", int(port))
    broker = ActionChunkBroker(policy, action_horizon=4)
    sent = [broker.infer(SEEN)["actions"].tolist() for _ in range(6)]
    try:
        policy.infer({"observation/state": np.zeros(5)})
        refused = ""
    except RuntimeError as error:
        refused = str(error)
    again = policy.infer(SEEN)["actions"].shape
    print(json.dumps({"sent": sent, "refused": refused, "again": again, "metadata": policy.get_server_metadata()}))


if __name__ == "__main__":
    main(sys.argv[1])
