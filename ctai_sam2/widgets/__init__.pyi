from .change import ChangeEditor as ChangeEditor
from .editor import MaskEditor as MaskEditor
from .l3 import L3MaskEditor as L3MaskEditor
from .middle import MiddleMaskEditor as MiddleMaskEditor
from .review import ReviewEditor as ReviewEditor
