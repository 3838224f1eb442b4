"""The error for an operation that no ONNX operations compute as torch does."""

import torch


class MissingForm(Exception):
    """An operation that no ONNX operations compute as torch does. `detail` follows its name in messages, and `node` is
    its node, once it is known."""

    def __init__(self, detail: str = "", node: torch.fx.Node | None = None) -> None:
        super().__init__(detail)
        self.detail, self.node = detail, node
