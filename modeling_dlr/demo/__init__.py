"""A page on which a saved model is tried, and its poles are moved, as `modeling-dlr demo` shows it. Needs Gradio.

pip install 'modeling-dlr[demo]'
"""

from .folders import answerer_of
from .page import close, demo_page, launch

__all__ = ["answerer_of", "close", "demo_page", "launch"]
