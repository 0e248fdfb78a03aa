"""Publish an official checkpoint or a training run on the Hub: convert, card, verify, push.

`python -m hub_upload --help` lists the commands; each is a function in the file of the same name.
"""
