"""`python -m proxy` is `audio-proxy`."""

from proxy.cli import main

if __name__ == "__main__":
    main()
