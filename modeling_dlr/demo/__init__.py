"""A page on which a saved model is tried, and its poles are moved, as `modeling-dlr demo` shows it. Needs Gradio.

pip install 'modeling-dlr[demo]'
"""

from .folders import answerer_of, check_folder
from .page import close, demo_page, launch

__all__ = ["answerer_of", "check_folder", "close", "demo_page", "launch"]
