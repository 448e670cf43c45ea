"""The commands: arguments in, sentences and exit codes out.

One module a command, each with a `main`; `command` has what they share. Commands look plugins up by name, hand their
classes to a step, and import it only once the arguments are understood: --help loads neither torch nor numpy.
"""
