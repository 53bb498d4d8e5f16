"""Where live counts are kept: in one process, or shared by several through Redis."""
