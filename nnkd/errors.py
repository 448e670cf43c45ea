"""Everything nnkd raises on bad input: one sentence each for what came, what was expected, and what to do."""


class NnkdError(Exception):
    """Base of all errors a user can cause; a command prints its message and ends with exit code 1."""


class UnknownNameError(NnkdError):
    """A teacher, aggregator, student, sampler, scheduler, dataset, label or option that does not exist."""


class UnknownPluginError(UnknownNameError):
    """No installed plugin offers an entry of that name."""


class BrokenPluginError(NnkdError):
    """A plugin exists, but importing it or checking it against its interface failed."""


class SettingError(NnkdError):
    """An option with a value it cannot take."""


class FileError(NnkdError):
    """A file of nnkd's or nnU-Net's own is missing, or is no JSON."""


class FolderError(NnkdError):
    """A folder or an environment variable that a command needs is missing."""


class DatasetError(NnkdError):
    """A dataset folder, or a file in it, is not as dataset.json says."""


class ReplacingError(NnkdError):
    """A file would be replaced that nnkd did not write."""


class GeometryError(DatasetError):
    """Two files that should share a grid differ in size, spacing, origin or direction."""


class ParticipantsError(DatasetError):
    """participants.tsv or cases.tsv is missing, incomplete or contradicts itself."""


class PredictionError(NnkdError):
    """A prediction folder, its manifest or one of its label maps is missing, broken or made otherwise."""


class VotesError(NnkdError):
    """Preprocessed votes are missing or older than the teachers' files."""


class RecipeError(NnkdError):
    """A recipe names what is gone, or contradicts another one."""


class TrainingError(NnkdError):
    """A training cannot go on: its loss or its weights are no numbers any more."""


class WeightsError(NnkdError):
    """A weights file is missing, is not the one that was expected, or holds what must not be loaded."""


class ProgramError(NnkdError):
    """Another program that a teacher runs is not there, failed, took too long, or wrote nothing."""


def in_one_line(error: BaseException, last: bool = False) -> str:
    """What another library's error says, in one line of at most 200 characters; its type where it says nothing.

    Args:
        error: Any.
        last: Whether the last line says most, as ITK's does, and not the first.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if last else 0].rstrip(".")[:200]
