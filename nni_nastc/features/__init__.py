"""From videos to stored I3D features."""
