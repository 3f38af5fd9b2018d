"""The exceptions that commands turn into a plain message."""


class UserError(Exception):
  """A mistake in what the user gave: a file, a flag, a config value, a directory.

  The message says in one or two plain lines what is wrong, where, and what would be
  right. Commands print it without a traceback and exit with status 2, which launchers take as
  final: what was wrong will be so again.
  """

  status = 2


class SaveError(UserError):
  """A save failed: for a full disk, a bucket out of reach, another process that died.

  Commands exit with status 1, and launchers try again.
  """

  status = 1
