"""The names that operators get when TensorFlow traces a Keras model; the converter orders operators by them."""

from __future__ import annotations

from keras_qcqp.graph import Node


class Scopes:
    """Makes names unique as TensorFlow does: `conv`, `conv_1`, ..., compared without case."""

    def __init__(self, model: str) -> None:
        self._used: dict[str, int] = {}
        self.top = self._enter("", model)
        self._containers: dict[str, str] = {}
        self._inside: dict[str, set[str]] = {}
        self._variables: dict[tuple[str, str], str] = {}

    def unique(self, name: str) -> str:
        """The name itself at first, with a number behind it from then on."""
        key = name.lower()
        number = self._used.get(key, 0)
        self._used[key] = number + 1
        if not number:
            return name
        base = key
        while key in self._used:
            key = f"{base}_{number}"
            number += 1
        self._used[key] = 1
        return f"{name}_{number - 1}"

    def _enter(self, scope: str, name: str) -> str:
        """Keras opens the scope of a layer twice for each call; the operators are in the second."""
        self.unique(scope + name)
        return self.unique(scope + name) + "/"

    def of_layer(self, node: Node) -> str:
        """The scope of a layer's operators in its next call."""
        *containers, name = node.layer.split("/")
        return self._enter(self._container(containers, node.layer), name)

    def of_operation(self, node: Node) -> str:
        """The scope of a `keras.ops` call, which has none of its own."""
        return self._container(node.layer.split("/")[:-1], node.layer)

    def _container(self, containers: list[str], layer: str) -> str:
        """A nested model is called anew when one of its layers comes round again."""
        scope, path = self.top, ""
        for name in containers:
            path += f"{name}/"
            if path not in self._containers or layer in self._inside[path]:
                self._containers[path] = self._enter(scope, name)
                self._inside[path] = set()
                for deeper in [inner for inner in self._containers if inner.startswith(path) and inner != path]:
                    del self._containers[deeper]
            self._inside[path].add(layer)
            scope = self._containers[path]
        return scope

    def variable(self, layer: str, scope: str, label: str) -> str:
        """The name of the argument through which a variable, read by operator `label`, enters the traced graph.

        The first call of a layer gives it its name.
        """
        name = f"{scope}{label}/ReadVariableOp_resource".replace("/", "_").lower()
        return self._variables.setdefault((layer, label), name)
