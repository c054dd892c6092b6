/* A VMM in a few lines, with nothing but the installed header and library. */
#include <iovad.h>
#include <stdio.h>

static int Fail(const struct iovad_error* error) {
  fprintf(stderr, "%s: %s\n", iovad_reason_name(error->reason), error->message);
  return 1;
}

int main(int argc, char** argv) {
  struct iovad_error error = {.struct_size = sizeof(error)};
  struct iovad_space_spec spec = {.struct_size = sizeof(spec), .name = "vm1"};
  struct iovad_segment segment;
  struct iovad_translation found = {
      .struct_size = sizeof(found), .segments = &segment, .capacity = 1};
  struct iovad_client* client = NULL;
  struct iovad_space* space = NULL;
  struct iovad_mirror* mirror = NULL;
  uint64_t iova = 0;

  if (argc != 2) return 2;
  if (iovad_connect(argv[1], NULL, &client, &error) < 0 ||
      iovad_space_create(client, &spec, NULL, &space, &error) < 0 ||
      iovad_mirror_open(space, NULL, &mirror, &error) < 0 ||
      iovad_mirror_wait_live(mirror, 60000, &error) < 0 ||
      iovad_map_guest(space, 0x1000, 0x7f0000001000, 0x1000, IOVAD_READ_WRITE, NULL, &iova,
                      &error) < 0) {
    return Fail(&error);
  }
  if (iovad_translate_gpa(mirror, 0x1800, 0x100, IOVAD_WRITE, &found) != IOVAD_WHOLE ||
      segment.iova != iova + 0x800) {
    return 1;
  }
  printf("libiovad %s: mapped and found\n", iovad_version());
  iovad_mirror_close(mirror);
  iovad_space_close(space);
  iovad_client_close(client);
  return 0;
}
