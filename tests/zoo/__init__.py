"""The zoo: networks of other people, each found, cut, compared and counted."""
