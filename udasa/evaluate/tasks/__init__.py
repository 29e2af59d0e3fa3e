"""Rows of a source -> documents; what a model answered -> metrics: the functions that the YAML in eval/tasks names.

A task's `custom_dataset` is called with what its YAML holds under `metadata` and `dataset_kwargs`, and with what
`udasa eval --data DIR --profile cpu` or `lm_eval --metadata '{"data": "DIR", "profile": "cpu"}'` adds to it.
"""
