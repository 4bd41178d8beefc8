"""The exceptions of autopeft, one for each exit code of the command line."""


class AutopeftError(Exception):
    """Anything autopeft refuses or gives up on, with a message meant for the user."""

    exit_code = 1


class ConfigError(AutopeftError):
    """A study, space, genotype or option is not what it has to be."""

    exit_code = 2


class MetricError(ConfigError):
    """A metric that is a function of the user failed, or returned what is no score."""


class DataError(AutopeftError):
    """A data file, model, folder or the environment is not what it has to be."""

    exit_code = 3


class DiskFullError(DataError):
    """There is no room to write; what is on the disk is whole."""


class NoFeasibleTrialError(AutopeftError):
    """Nothing in the space fits the budget."""

    exit_code = 4


class TooManyFailuresError(AutopeftError):
    """So many trials failed that going on makes no sense, or the only one that there was to be."""

    exit_code = 5


class InterruptedSearchError(AutopeftError):
    """The user ended a search before its end; it can be continued."""

    exit_code = 130
