"""Video: how the bytes of a file become the pixels of certain frames.

bytes ──► packet index ──► decode plan ──► decoders ──► pictures ──► pixels
video_file, packets,       decode_plan     crew,        sift:       pixels
remote      mp4_tables                     decoder      held against
                                                        the index
                       └─► sequential, where the index cannot be trusted
"""
