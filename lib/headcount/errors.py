"""The one exception that speaks to the user."""


class InputError(ValueError):
    """Something the user can mend, told in one line: what is wrong, where, and what to do.

    Notebooks show that line alone: a stack of frames would bury it.
    """

    def _render_traceback_(self) -> list[str]:
        # IPython asks an exception for its own rendering under this name.
        return [f"InputError: {self}"]
