"""What the operator's commands do that ask a running proxy, or the store of its flags."""
