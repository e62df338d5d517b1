"""The errors a user may meet: what was expected, what was found, and what to do about it."""


class UserError(Exception):
    """A mistake the user can mend; a command ends with exit code 2 and this message, without a traceback."""


class ConfigError(UserError):
    """A key, value, group or combination in the configuration that cannot work."""


class DataError(UserError):
    """Images, labels or splits that cannot be used as they are."""


class BadImage(DataError):
    """One image file that cannot be used; `reason` says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ModelError(UserError):
    """A network or its weights that cannot be built or loaded."""


class BundleError(UserError):
    """A saved model that is missing, damaged, or newer than this version."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or belongs to another configuration."""


class RunError(UserError):
    """A run directory that cannot be created, written, locked or resumed."""


class TrainingError(UserError):
    """Training that had to stop, such as a loss that is no longer finite."""


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived and the run stopped in order.

    It derives from BaseException, like KeyboardInterrupt, so that no library takes it for a failure.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum
