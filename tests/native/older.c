/* A program that was built before structs of janus_edge.h grew (older/janus_edge.h): its structs end earlier. It draws.
 * usage: older BUNDLE ONNXRUNTIME */
#include <stdio.h>

#include "janus_edge.h"

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  je_options options;
  je_options_init(&options, sizeof options);
  options.onnxruntime = argv[2];
  je_session* session = NULL;
  if (je_session_open(argv[1], &options, &session)) return fprintf(stderr, "%s\n", je_error()), 1;
  /* canaries: the library must not write behind a struct */
  struct {
    je_request request;
    uint64_t behind;
  } given = {.behind = 0x5A5A5A5A};
  je_request_init(&given.request, sizeof given.request);
  given.request.prompt = "three red circles";
  given.request.seed = 3;
  je_job* job = NULL;
  if (je_job_start(session, &given.request, &job)) return fprintf(stderr, "%s\n", je_error()), 1;
  struct {
    je_event event;
    uint64_t behind;
  } received = {.event = {.size = sizeof received.event}, .behind = 0x5A5A5A5A};
  je_status status;
  long sum = 0;
  while ((status = je_job_next(job, &received.event)) == JE_OK)
    if (received.event.kind == JE_EVENT_IMAGE)
      for (long i = 0; i < (long)received.event.image.stride * received.event.image.height; i++)
        sum += received.event.image.pixels[i];
  je_job_free(job);
  je_session_close(session);
  if (status != JE_DONE || given.behind != 0x5A5A5A5A || received.behind != 0x5A5A5A5A) return 1;
  printf("%ld %zu %zu %zu\n", sum, sizeof options, sizeof given.request, sizeof received.event);
  return 0;
}
