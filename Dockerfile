# A server of one model: docker build -t rheostat . && docker run -p 8000:8000 -e RHEOSTAT_TOKEN=... -v ./model:/model rheostat
FROM python:3.12-slim

RUN useradd --create-home --uid 10001 rheostat
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# Torch's own index has builds without CUDA, which are a tenth of the size.
RUN python -m pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu -c constraints.txt ".[serve]"

USER rheostat
WORKDIR /home/rheostat
VOLUME /model
EXPOSE 8000
# Beyond loopback the policy needs a token: RHEOSTAT_TOKEN, or --token-file.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"]
ENTRYPOINT ["rheostat", "serve"]
CMD ["/model", "--host", "0.0.0.0", "--port", "8000"]
