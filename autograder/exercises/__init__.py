"""One file a chapter, `chNN_topic.py`: the exercises, quiz questions and written questions of that chapter."""
