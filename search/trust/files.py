"""Names that moved to spaces.files, for the days of the move."""

from spaces.files.json_file import mapping, parse_json, read_json
from spaces.files.reading import FileError, opened, place, read_bounded, shown

__all__ = ["FileError", "mapping", "opened", "parse_json", "place", "read_bounded", "read_json", "shown"]
