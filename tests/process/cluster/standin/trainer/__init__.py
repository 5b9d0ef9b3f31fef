"""The stand-in trainer; all but its `__main__` is the real one's, as the launcher wants the settings' vocabulary."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
