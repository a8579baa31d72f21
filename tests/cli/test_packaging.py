"""What is shipped calls the commands as they are."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from iommubus.service.settings.config import Config
from tests.cli.commands import iommubus

TOP = Path(__file__).parents[2]
UNIT = TOP / "packaging" / "iommubus.service"
SETTINGS = TOP / "packaging" / "iommubus.toml"
DOCKERFILE = TOP / "Dockerfile"


def words_of(instruction: str) -> list[str]:
    """Return the words of an instruction of the Dockerfile."""
    found = re.search(rf"^{instruction}\b.*?(\[.*\])$", DOCKERFILE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return [str(word) for word in json.loads(found[1])]


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """Return where the settings of what is served are kept."""
    configs: list[Config] = []

    async def serve(config: Config, *, reload: Callable[[], Config]) -> None:
        del reload
        configs.append(config)

    monkeypatch.setattr("iommubus.service.serve.serve", serve)
    return configs


def test_the_unit_serves_what_its_file_says(served: list[Config]) -> None:
    found = re.search(r"^ExecStart=/usr/bin/iommubus (.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    words = found[1].replace("/etc/iommubus/iommubus.toml", str(SETTINGS)).split()

    done = iommubus(*words)

    assert (done.exit_code, done.output) == (0, "")
    assert served == [Config()]


def test_the_image_serves_by_default(served: list[Config]) -> None:
    assert words_of("ENTRYPOINT") == ["iommubus"]
    assert iommubus(*words_of("CMD")).exit_code == 0
    assert [str(address) for address in served[0].addresses] == ["unix:/run/iommubus/bus.sock"]


def test_the_image_knows_whether_it_is_healthy(address: str, tmp_path: Path) -> None:
    entry, *words = words_of("HEALTHCHECK")
    assert entry == "iommubus"

    assert iommubus(*words, IOMMUBUS_ADDRESS=address).exit_code == 0
    assert iommubus(*words, IOMMUBUS_ADDRESS=f"unix:{tmp_path}/none").exit_code == 1
