"""What `iommubus.testing` offers is there, is described, and runs as its docstring shows it."""

import inspect
import subprocess
import sys
from textwrap import dedent, indent

from iommubus import testing


def test_every_public_name_is_there_and_described() -> None:
    assert sorted(testing.__all__, key=str.lower) == sorted(set(testing.__all__), key=str.lower)
    for name in testing.__all__:
        value = getattr(testing, name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value), name


def test_the_example_in_the_docstring_passes() -> None:
    """It stands there as it is run here."""
    example = dedent((testing.__doc__ or "").partition("::\n")[2].partition("\nor, each")[0])
    consumer, _, call = example.partition("await check_consumer")
    body = indent(f"await check_consumer{call}", "    ")
    program = f"from iommubus import *\nfrom iommubus.testing import *\n{consumer}\nasync def main():\n{body}"
    program += "\nimport anyio\nanyio.run(main)\n"

    subprocess.run([sys.executable, "-c", program], check=True)


def test_pytest_is_not_needed() -> None:
    """The suites are functions; only the plugin knows of pytest."""
    probe = "import sys, iommubus.testing; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert not {"pytest", "asyncio", "trio", "iommubus_pytest"} & set(result.stdout.split())
