"""How the simulations run hypothesis: the same examples every time, however slow the machine is."""

from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")
