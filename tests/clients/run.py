"""Run the real clients against `fewstep serve`, and LeRobot's own programs on a bundle: see .ci/clients.

python -m tests.clients.run openpi PYTHON     # of an environment with openpi-client
python -m tests.clients.run lerobot PYTHON    # of an environment with LeRobot
python -m tests.clients.run eval PYTHON       # the same, with fewstep and the plug-in lerobot_policy_fewstep
"""

import json
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tests.clients.bundles import known_actions, write

HERE = Path(__file__).parent
SEEN_MEAN = 0.1  # of the state that the clients' robots have
SECONDS = 300  # for a client, with the imports of LeRobot


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """Run a server, and give its port. At the end it must stop at SIGINT, with exit code 0. A server that hangs is
    killed."""
    command = [sys.executable, "-m", "fewstep.cli.main", "serve", str(folder), "--plan", "ddim:2", "--port", "0"]
    server = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        is_ready, _, _ = select.select([server.stderr], [], [], SECONDS)
        line = server.stderr.readline() if is_ready else "no line"
        assert " is served at 127.0.0.1:" in line, line
        yield line.partition(" is served at 127.0.0.1:")[2].split()[0]
        server.send_signal(signal.SIGINT)
        server.wait(30)
    finally:
        server.kill()
        rest = server.stderr.read()
        print(rest, end="", file=sys.stderr)
    assert server.returncode == 0 and "Traceback" not in rest


def answer(python: str, script: str, port: str, folder: Path) -> dict[str, Any]:
    """Run a client, and return the JSON of its last line."""
    command = [python, HERE / script, port]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=True, timeout=SECONDS)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def openpi(python: str, folder: Path) -> None:
    with serving(write("arm", folder / "arm")) as port:
        said = answer(python, "ask_as_openpi.py", port, folder)
    known = known_actions(SEEN_MEAN)
    assert np.allclose(said["sent"], [*known[:4], *known[:2]], atol=1e-5), said["sent"]
    assert "the observation has no 'observation.images.cam0'" in said["refused"], said["refused"]
    assert said["again"] == [8, 2] and said["metadata"]["executed"] == 4


def lerobot(python: str, folder: Path) -> None:
    with serving(write("arm", folder / "arm"), "--protocol", "lerobot", "--rate", "20") as port:
        said = answer(python, "ask_as_lerobot.py", port, folder)
    assert said["started"] and len(said["sent"]) >= 20, said
    assert np.allclose(said["sent"][0], known_actions(SEEN_MEAN)[0], atol=1e-5), said["sent"][0]
    assert said["latest"] >= 19  # an action of a later step than the first sequence has


def evaluate(python: str, folder: Path) -> None:
    write("pusht", folder / "pusht")
    subprocess.run([python, "-m", "lerobot_policy_fewstep", "pusht"], cwd=folder, check=True, timeout=SECONDS)
    said = answer(python, "ask_plugin.py", "pusht", folder)
    known = known_actions(SEEN_MEAN, 4)[:, None] + np.array([0, 1])[None, :, None]  # of two environments
    assert np.allclose(said["sent"], [*known, known[0]], atol=1e-5), said["sent"]
    assert said["continued"][:2] == [[7, 7], [7, 7]] and said["rtc"], said
    assert np.allclose(said["continued"][2:], known_actions(SEEN_MEAN, 7)[2:], atol=1e-5), said["continued"]
    assert said["refused"] == [
        "n_action_steps 0; give a whole number from 1 to 7",
        "n_action_steps 8; give a whole number from 1 to 7",
    ]
    options = ("--policy.path=pusht", "--env.type=pusht", "--env.obs_type=environment_state_agent_pos")
    # LeRobot's environments in other processes do not find gym_pusht
    more = ("--env.episode_length=12", "--eval.n_episodes=2", "--eval.use_async_envs=false", "--output_dir=out")
    subprocess.run([Path(python).parent / "lerobot-eval", *options, *more], cwd=folder, check=True, timeout=SECONDS)
    said = json.loads((folder / "out/eval_info.json").read_text())
    assert said["overall"]["n_episodes"] == 2, said["overall"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        {"openpi": openpi, "lerobot": lerobot, "eval": evaluate}[sys.argv[1]](sys.argv[2], Path(name))
    print(f"{sys.argv[1]}: passed")
