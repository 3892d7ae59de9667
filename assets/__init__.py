"""Sample images and bundled priors; read them through `importlib.resources.files("restore.assets")`."""
