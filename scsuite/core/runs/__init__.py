"""Run directories: their files, the environment of a run, and the JSON results that scripts rely on."""
