/* Draws an image with progress and previews, then asks a question about it.
 *
 * usage: draw_and_ask BUNDLE PROMPT OUT.png QUESTION [ONNXRUNTIME] */
#include <stdio.h>
#include <stdlib.h>

#include "janus_edge.h"

static int failed(void) {
  fprintf(stderr, "error: %s\n", je_error());
  return 1;
}

/* Each preview overwrites OUT.png, so that an image viewer that follows the file shows how the image appears. */
static int draw(je_session* session, const char* prompt, const char* path) {
  je_request request;
  je_request_init(&request, sizeof request);
  request.prompt = prompt;
  request.previews = 1;
  je_job* job = NULL;
  if (je_job_start(session, &request, &job)) return failed();
  je_event event = {.size = sizeof event};
  je_status status;
  int previews = 0;
  while ((status = je_job_next(job, &event)) == JE_OK) {
    const char* texts[] = {"prompt", prompt};
    if (event.kind == JE_EVENT_PROGRESS)
      fprintf(stderr, "\r%lld of %lld %s", (long long)event.done, (long long)event.total, event.unit);
    else if (je_image_save(path, &event.image, texts, 1))
      break;
    previews += event.kind == JE_EVENT_PREVIEW;
  }
  fprintf(stderr, "\n");
  if (status != JE_DONE)
    failed();
  else
    printf("%s: %d previews, %.0f ms\n", path, previews, event.elapsed_ms);
  je_job_free(job);
  return status != JE_DONE;
}

static int ask(je_session* session, const char* path, const char* question) {
  je_image image;
  if (je_image_load(path, &image)) return failed();
  je_request request;
  je_request_init(&request, sizeof request);
  request.task = JE_TASK_ASK;
  request.prompt = question;
  request.input_images = &image;
  request.num_input_images = 1;
  je_job* job = NULL;
  je_status status = je_job_start(session, &request, &job);
  je_image_free(&image); /* je_job_start has read it */
  if (status) return failed();
  je_event event = {.size = sizeof event};
  while ((status = je_job_next(job, &event)) == JE_OK) {
    fwrite(event.text, 1, event.text_length, stdout);
    fflush(stdout);
  }
  printf("\n");
  if (status != JE_DONE) failed();
  je_job_free(job);
  return status != JE_DONE;
}

int main(int argc, char** argv) {
  if (argc < 5) {
    fprintf(stderr, "usage: %s BUNDLE PROMPT OUT.png QUESTION [ONNXRUNTIME]\n", argv[0]);
    return 2;
  }
  je_options options;
  je_options_init(&options, sizeof options);
  options.onnxruntime = argc > 5 ? argv[5] : NULL;
  je_session* session = NULL;
  if (je_session_open(argv[1], &options, &session)) return failed();
  const int code = draw(session, argv[2], argv[3]) || ask(session, argv[3], argv[4]);
  je_session_close(session);
  return code;
}
