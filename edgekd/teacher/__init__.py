"""Teachers: from what people have on disk to a network that can be distilled from."""

from edgekd.teacher.loading import check_images, load_teacher, save_teacher
from edgekd.teacher.preprocessing import normalisation

__all__ = ["check_images", "load_teacher", "normalisation", "save_teacher"]
