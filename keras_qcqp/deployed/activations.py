"""Activation functions as the operators they are deployed as."""

from __future__ import annotations

from typing import Any, NamedTuple


class Step(NamedTuple):
    """One operator; it reads the function's argument ("x") and the results of earlier steps (their numbers)."""

    kind: str
    label: str
    reads: str = "x"
    scalars: int = 0  # constants of one value


FUNCTIONS: dict[str, tuple[Step, ...]] = {
    "linear": (),
    "relu": (Step("RELU", "Relu"),),
    "relu6": (Step("RELU6", "Relu6"),),
    "sigmoid": (Step("LOGISTIC", "Sigmoid"),),
    "tanh": (Step("TANH", "Tanh"),),
    "softmax": (Step("SOFTMAX", "Softmax"),),
    "log_softmax": (Step("LOG_SOFTMAX", "LogSoftmax"),),
    "exponential": (Step("EXP", "Exp"),),
    "elu": (Step("ELU", "Elu"),),
    "leaky_relu": (Step("LEAKY_RELU", "LeakyRelu"),),
    "gelu": (Step("GELU", "Gelu/mul_2"),),
    "hard_silu": (Step("HARD_SWISH", "mul"),),
    "silu": (Step("NOTHING", "mul"), Step("LOGISTIC", "Sigmoid", "0"), Step("MUL", "mul_1", "x1")),
    "hard_sigmoid": (
        Step("ADD_SCALAR", "add", "x", 1),
        Step("RELU6", "Relu6", "0"),
        Step("MUL_SCALAR", "truediv", "1", 1),
    ),
    "softplus": (Step("EXP", "Softplus"), Step("ADD", "Softplus_1", "0", 1), Step("LOG", "Softplus_2", "1")),
    "softsign": (Step("ABS", "Softsign"), Step("ADD", "Softsign_1", "0", 1), Step("DIV", "Softsign_2", "x1")),
    "mish": (
        Step("EXP", "Softplus"),
        Step("ADD", "Softplus_1", "0", 1),
        Step("LOG", "Softplus_2", "1"),
        Step("TANH", "Tanh", "2"),
        Step("MUL", "mul", "x3"),
    ),
    "selu": (
        Step("GREATER", "Selu", "x", 1),
        Step("MUL", "Selu_1", "x", 1),
        Step("EXP", "Selu_2", "x"),
        Step("SUB", "Selu_3", "2", 1),
        Step("MUL", "Selu_4", "3", 1),
        Step("SELECT", "Selu_5", "014"),
    ),
    "clipped_relu": (Step("RELU", "Relu"), Step("MINIMUM", "clip_by_value/Minimum", "0", 1), Step("RELU", "clip", "1")),
    "sloped_relu": (
        Step("NEG", "Neg"),
        Step("RELU", "Relu", "0"),
        Step("MUL", "mul", "1", 1),
        Step("RELU", "Relu_1", "x"),
        Step("MINIMUM", "clip_by_value/Minimum", "3", 1),
        Step("SUB", "sub", "42"),
    ),
}
"""Name of a Keras activation -> its operators; the last one makes the result."""

FUNCTIONS["swish"] = FUNCTIONS["silu"]
FUNCTIONS["hard_swish"] = FUNCTIONS["hard_silu"]


def name_of(activation: Any) -> str | None:
    """The key in `FUNCTIONS` of a serialised activation; None when it is not known."""
    if activation is None:
        return "linear"
    if isinstance(activation, dict):
        if activation.get("class_name") != "function":
            return None
        activation = activation.get("config")
    return activation if activation in FUNCTIONS else None


def relu_layer(config: Any) -> str:
    """The key in `FUNCTIONS` for a ReLU layer with its three settings."""
    top, slope, threshold = config.get("max_value"), config.get("negative_slope"), config.get("threshold")
    if threshold:
        return "sloped_relu"
    if slope:
        return "leaky_relu" if top is None else "sloped_relu"
    return {None: "relu", 6.0: "relu6"}.get(top, "clipped_relu")
