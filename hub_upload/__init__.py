"""From an official checkpoint or a training run to a Hub repository that anybody can load: convert, card, verify, push.

The commands are in `python -m hub_upload --help`; each is one function of the file of its name.
"""
