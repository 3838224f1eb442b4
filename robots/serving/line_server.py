"""A server for robots that ask for an action at each tick, by lines of JSON: the control loop runs in this process.

It serves one robot at a time. A connection is closed if its first message does not arrive within a second, so a silent
connection delays a robot by at most a second. A robot that is served must send a message at least every 10 seconds.
"""

import io
import socket
from collections.abc import Callable
from typing import Any

from fewstep.plans.errors import UserError, first_line, printable
from fewstep.robots.control.runner import PolicyRunner
from fewstep.robots.control.tick import Action
from fewstep.robots.serving import lines
from fewstep.robots.serving.lines import Incoming, Message, receive
from fewstep.robots.serving.listening import Listening

Say = Callable[[str], None]


def serve_lines(
    runner: PolicyRunner, listening: Listening, socket_: socket.socket, say: Say, connections: int | None = None
) -> None:
    """Serve robots that connect to a listening socket, one after the other. Each begins with a reset.

    connections: the number after which to stop; None serves without end.
    """
    while connections is None or connections > 0:
        connection, address = socket_.accept()
        connections = None if connections is None else connections - 1
        with connection:
            try:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                _serve_robot(runner, listening, connection)
            except Exception as error:  # disconnected or not a robot; continue with the next connection
                say(printable(f"{address[0]}:{address[1]}: {type(error).__name__}: {first_line(error):.200}"))


def _serve_robot(runner: PolicyRunner, listening: Listening, connection: socket.socket) -> None:
    is_ready, stream = False, io.BufferedReader(Incoming(connection))
    seconds = lines.FIRST
    while (message := receive(stream, seconds)) is not None:
        if not is_ready and not listening.admits(_token(message)):
            Message({"error": "the first message does not have the token; send it with a reset"}).send(connection)
            raise PermissionError("it does not have the token")
        seconds = lines.SILENT
        try:
            if "reset" in message.fields:
                runner.reset(message.fields["reset"], prompt=message.fields.get("prompt"))
                answer, is_ready = Message(), True
            else:
                if not is_ready:
                    raise UserError("no episode has begun", "send a reset first")
                answer = _answer(runner.act(message.arrays))
        except UserError as error:
            answer = Message({"error": str(error)})
        answer.send(connection)


def _token(message: Message) -> str | None:
    token: Any = message.fields.get(lines.TOKEN)
    return token if isinstance(token, str) else None


def _answer(action: Action) -> Message:
    fields = {"source": action.source, "age": action.age, "problem": action.problem}
    return Message(fields, {} if action.value is None else {"action": action.value})
