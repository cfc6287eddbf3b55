"""Lists where models can be measured: what is attached, what each can do, what is missing and how to get it.

Examples:
  Everything:
    python -m tflite_tools.devices_main

  Connect a phone over Wi-Fi first (its developer options show the address), and write the list as JSON:
    python -m tflite_tools.devices_main --connect=192.168.0.7:5555 --output=devices.json
"""

from __future__ import annotations

import json
from dataclasses import asdict

from absl import flags

from tflite_tools import command
from tflite_tools.files import check_writable, write_text

_FLAGS = command.new_flags()
_CONNECT = flags.DEFINE_multi_string("connect", [], "HOST:PORT of an Android device; repeatable.", flag_values=_FLAGS)
_OUTPUT = flags.DEFINE_string("output", None, "Where to write the list as JSON.", flag_values=_FLAGS)


def main(progress: command.Progress) -> str:
    """Looks as the flags say.

    Raises:
        TfliteToolsError: whatever goes wrong; a device that cannot be used is no error.
    """
    if _OUTPUT.value:
        check_writable(_OUTPUT.value)
    with progress("Looking for devices"):
        from tflite_tools.devices.adb import connect
        from tflite_tools.devices.inventory import find_devices

        for address in _CONNECT.value:
            connect(address)
        found = find_devices()
    if _OUTPUT.value:
        stored = [{**asdict(item), "facts": dict(item.facts)} for item in found]
        write_text(_OUTPUT.value, json.dumps({"devices": stored}, indent=2) + "\n")
    return "\n".join(map(str, found))


def run() -> None:
    """Entry point of the console script."""
    command.run_command(command.Command("tflite_devices", __doc__ or "", _FLAGS, main))


if __name__ == "__main__":
    run()
