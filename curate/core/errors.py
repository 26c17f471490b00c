"""The exceptions we raise on purpose; anything else is a bug and shows its traceback.

ToolkitError
+-- ConfigError(ValueError)         a field outside its documented range
|   +-- BudgetError                 a budget that cannot be met
+-- ImageError(ValueError)          wrong dtype, rank, channels or size
|   +-- DecodeError                 bytes that are not a whole, undamaged image
+-- ManifestError(ValueError)       schema, version or hash mismatch
+-- PluginError(LookupError)        no such plug-in; lists near names
+-- DiskError                       a disk that is full, failing or read-only
+-- MissingDependencyError(ImportError)   names the command that installs it
+-- InstallError                    one of our packages is shadowed by another distribution
+-- NumericsError(ArithmeticError)  non-finite loss, metric or embedding
"""

from __future__ import annotations


class ToolkitError(Exception):
    """Catch this to catch everything irdistill raises on purpose."""


class ConfigError(ToolkitError, ValueError):
    """A field or argument is outside its documented range."""


class BudgetError(ConfigError):
    """A budget that no selection can meet."""


class ImageError(ToolkitError, ValueError):
    """An image has the wrong dtype, rank, channels or size."""


class DecodeError(ImageError):
    """Bytes that are not a whole, undamaged image.

    Attributes:
        reason: short code that goes to the `reason` column, such as `damaged` or `not-an-image`.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type[DecodeError], tuple[str, str]]:
        """Cross from a worker to its parent: exceptions are made again from what their constructor takes."""
        return type(self), (self.reason, self.detail)


class ManifestError(ToolkitError, ValueError):
    """A file contract is broken: schema, version, count or hash."""


class PluginError(ToolkitError, LookupError):
    """No plug-in of that name; the message lists near names."""


class DiskError(ToolkitError):
    """A disk that is full, failing or read-only.

    No OSError, although it comes from one: who takes an OSError for a picture that cannot be read, or for a server's fault,
    must let this one pass.
    """


class MissingDependencyError(ToolkitError, ImportError):
    """Something optional is not installed; the message names the command that brings it."""


class InstallError(ToolkitError):
    """One of our import packages is shadowed by another distribution."""


class NumericsError(ToolkitError, ArithmeticError):
    """A loss, metric or embedding is not finite."""
