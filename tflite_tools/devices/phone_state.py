"""What decides how fast an Android phone is at the moment: heat, battery, frequency governors.

Source: `dumpsys battery`, `dumpsys thermalservice` and /sys of Android; names and numbers of sensors differ by vendor,
so sensors are chosen by type.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from tflite_tools.devices.adb import Connection, printable

_CPU, _BATTERY, _SKIN = 0, 2, 3  # android.os.Temperature types
_STATUSES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")
_TEMPERATURE = re.compile(r"Temperature\{mValue=([-\d.]+), mType=(\d+), mName=([^,}]*), mStatus=\d+\}")
_GOVERNORS = (
    "for c in /sys/devices/system/cpu/cpu[0-9]*; do "
    "f=$c/cpufreq; echo ${c##*/} $(cat $f/scaling_governor $f/scaling_cur_freq $f/cpuinfo_max_freq 2>&1); done"
)
_ZONES = "for z in /sys/class/thermal/thermal_zone*; do echo $(cat $z/type $z/temp 2>/dev/null); done"
_POSSIBLE_C = (-20.0, 150.0)


@dataclass(frozen=True)
class PhoneState:
    """Celsius and percent, None where the phone does not say.

    Attributes:
        throttling: 0 none ... 6 shutdown.
        cpu_c: the hottest CPU sensor.
        governors: of the CPUs that are on: name -> (governor, highest kHz).
    """

    throttling: int | None = None
    cpu_c: float | None = None
    skin_c: float | None = None
    battery_c: float | None = None
    battery_percent: int | None = None
    charging: bool | None = None
    governors: dict[str, tuple[str, int]] = field(default_factory=dict)

    def hot(self, cpu_limit_c: float) -> str:
        """ "" or why a measurement now would be too slow."""
        if self.throttling:
            return f"it throttles ({_STATUSES[min(self.throttling, 6)]})"
        if self.cpu_c is not None and self.cpu_c > cpu_limit_c:
            return f"its CPU has {self.cpu_c:.0f} C, above {cpu_limit_c:.0f}"
        return ""

    def described(self) -> dict[str, str]:
        """For the environment of a profile."""
        names = sorted({governor for governor, _ in self.governors.values()})
        fastest = max((khz for _, khz in self.governors.values()), default=0)
        facts = {
            "governor": ", ".join(names),
            "cpus_on": str(len(self.governors)) if self.governors else "",
            "fastest_cpu_mhz": str(fastest // 1000) if fastest else "",
            "throttling": "" if self.throttling is None else _STATUSES[min(self.throttling, 6)],
            "cpu_c": _number(self.cpu_c),
            "battery_c": _number(self.battery_c),
            "battery_percent": "" if self.battery_percent is None else str(self.battery_percent),
            "charging": "" if self.charging is None else str(self.charging).lower(),
        }
        return {key: value or "unknown" for key, value in facts.items()}


def read_state(connection: Connection) -> PhoneState:
    """Asks the phone. What it does not tell stays None.

    Raises:
        DeviceError: the connection is lost.
    """
    thermal = parse_thermal(connection.run(["dumpsys", "thermalservice"]).text)
    battery = parse_battery(connection.run(["dumpsys", "battery"]).text)
    cpu = thermal.cpu_c
    if cpu is None:
        cpu = parse_zones(connection.shell(_ZONES).text)
    return PhoneState(
        throttling=thermal.throttling,
        cpu_c=cpu,
        skin_c=thermal.skin_c,
        battery_c=battery.battery_c if battery.battery_c is not None else thermal.battery_c,
        battery_percent=battery.battery_percent,
        charging=battery.charging,
        governors=parse_governors(connection.shell(_GOVERNORS).text),
    )


def parse_battery(text: str) -> PhoneState:
    """Of `dumpsys battery`; the temperature there is in tenths."""
    values = dict(re.findall(r"^\s*(level|temperature|status): (-?\d+)\s*$", text, re.MULTILINE))
    tenths = int(values["temperature"]) / 10 if "temperature" in values else None
    return PhoneState(
        battery_c=_possible(tenths),
        battery_percent=int(values["level"]) if "level" in values else None,
        charging=values["status"] in ("2", "5") if "status" in values else None,  # charging, full
    )


def parse_thermal(text: str) -> PhoneState:
    """Of `dumpsys thermalservice`; only what the sensors say now, the cached block before it is stale."""
    status = re.search(r"^\s*Thermal Status: (\d+)", text, re.MULTILINE)
    _, _, rest = text.partition("Current temperatures from HAL:")
    now = rest.partition("Current cooling devices")[0]
    sensors = [(int(kind), _possible(float(value))) for value, kind, _ in _TEMPERATURE.findall(now)]

    def hottest(kind: int) -> float | None:
        return max((value for found, value in sensors if found == kind and value is not None), default=None)

    return PhoneState(
        throttling=int(status[1]) if status and "HAL Ready: false" not in text else None,
        cpu_c=hottest(_CPU),
        skin_c=hottest(_SKIN),
        battery_c=hottest(_BATTERY),
    )


def parse_zones(text: str) -> float | None:
    """The hottest CPU zone of /sys/class/thermal, in Celsius or thousandths of it."""
    found = []
    for name, value in re.findall(r"^(\S+) (-?\d+)\s*$", text, re.MULTILINE):
        celsius = _possible(int(value) / (1000 if abs(int(value)) > 200 else 1))
        if "cpu" in name.lower() and celsius is not None:
            found.append(celsius)
    return max(found, default=None)


def parse_governors(text: str) -> dict[str, tuple[str, int]]:
    """Lines "cpu0 schedutil 1401600 1804800"; cores that are off have no governor."""
    rows = re.findall(r"^(cpu\d+) ([a-z_]+) \d+ (\d+)\s*$", text, re.MULTILINE)
    return {cpu: (printable(governor, 40), int(khz)) for cpu, governor, khz in rows}


def cool_down(
    connection: Connection, cpu_limit_c: float, seconds: float, sleep: Callable[[float], None], step: float = 5.0
) -> tuple[PhoneState, str]:
    """Waits until the phone is cool, and says in a note if it is not after `seconds`."""
    waited = 0.0
    while True:
        state = read_state(connection)
        why = state.hot(cpu_limit_c)
        if not why:
            return state, ""
        if waited >= seconds:
            return state, f"the phone was hot: after {waited:.0f} s of waiting {why}; times are too long."
        sleep(step)
        waited += step


def _possible(celsius: float | None) -> float | None:
    """Sensors that are absent report -99.9 or thousands."""
    return celsius if celsius is not None and _POSSIBLE_C[0] < celsius < _POSSIBLE_C[1] else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
