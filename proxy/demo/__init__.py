"""A sample tutor that knows nothing of the proxy, its page, and a run that measures both."""
