"""The one exception that commands turn into a plain message."""


class UserError(Exception):
  """A mistake in what the user gave: a file, a flag, a config value, a directory.

  The message says in one or two plain lines what is wrong, where, and what would be
  right. Commands print it without a traceback and exit with status 2.
  """
