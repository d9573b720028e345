"""Coverage-guided fuzzing of what reads text that others wrote: `make fuzz`.

`targets.py` holds one function per parser, `seeds.py` the inputs that it starts from, `__main__.py` runs them with
atheris, which must be installed for that alone.
"""
