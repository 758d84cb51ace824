"""Studies: the record of trials in Optuna's storages, and what is read from it."""
