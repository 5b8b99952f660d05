"""Architecture search with NNI's strategies."""

# Where the extra "rl" is installed, importing NNI's strategies imports gym, which prints at every start that it has no
# maintainers any more.
try:
    from gym_notices.notices import notices
except ImportError:
    pass
else:
    notices.clear()
