"""What the administrator of a daemon, its rules or its disk keep it from."""

from .base import IommubusError


class ConfigError(IommubusError, ValueError):
    """Something in the configuration that cannot be."""


class UnknownSetting(ConfigError):
    """A setting that does not exist.

    Attributes:
        source: Where it stands: a file, a variable of the environment, a flag.
        key: Its dotted path.
        nearest: The setting that was probably meant, or "".
    """

    source: str
    key: str
    nearest: str

    def __str__(self) -> str:
        hint = f"; did you mean {self.nearest}?" if self.nearest else ""
        return f"{self.source}: there is no setting {self.key}{hint}"


class BadSetting(ConfigError):
    """A setting with a value that it cannot have.

    Attributes:
        source: Where it stands: a file, a variable of the environment, a flag.
        key: Its dotted path.
        value: The value, as it was written.
        accepted: What it may be.
    """

    source: str
    key: str
    value: str
    accepted: str

    def __str__(self) -> str:
        return f"{self.source}: {self.key} is {self.value}, accepted: {self.accepted}"


class ConfigUnreadable(ConfigError):
    """A configuration file that cannot be read, or is no TOML."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} cannot be read: {self.reason}"


class RuleMissing(IommubusError):
    """A peer asked for what no rule allows it.

    Attributes:
        peer: Who, in words.
        action: What it wanted to do: the key of a rule.
        name: The name of the space or endpoint that it wanted to do it to.
        rule: The rule that would allow it, as it would stand in the file.
    """

    peer: str
    action: str
    name: str
    rule: str

    def __str__(self) -> str:
        return f"{self.peer} may not {self.action} {self.name!r}: it would take the rule {self.rule}"


class LeasesUnreadable(IommubusError):
    """The record of who may still hold something is there and cannot be read."""

    path: str
    reason: str

    def __str__(self) -> str:
        return (
            f"{self.path} cannot be read: {self.reason}. It says who may still use what an earlier daemon handed out, "
            "so nothing is served without it. When all subscribers of that daemon have ended, delete the file and "
            "start again; a reboot ends them too"
        )


class LeasesUnwritable(IommubusError):
    """The record of who may still hold something cannot be written; nothing was granted."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} cannot be written: {self.reason}; nothing was granted"
