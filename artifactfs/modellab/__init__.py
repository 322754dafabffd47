"""The remote service, Datadog Model Lab: endpoints in, frozen values out. The only room that knows httpx."""
