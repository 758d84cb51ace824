"""secateurs: the search, its configuration, its run folder, its report and its command line."""
