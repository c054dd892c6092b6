# What `cmake --install` lays down. Headers keep their paths from the root
# ("core/types.h", "iovad/v1/types.pb.h") below include/iovad, so that they
# cannot meet anybody else's.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(iovad_headers ${CMAKE_INSTALL_INCLUDEDIR}/iovad)
set(iovad_package ${CMAKE_INSTALL_LIBDIR}/cmake/iovad)

foreach(library IN ITEMS proto core client)
  if(TARGET iovad_${library})
    set_target_properties(iovad_${library} PROPERTIES EXPORT_NAME ${library})
    target_include_directories(iovad_${library} INTERFACE $<INSTALL_INTERFACE:${iovad_headers}>)
    install(TARGETS iovad_${library} EXPORT iovadTargets
            ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
            LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
  endif()
endforeach()

foreach(program IN ITEMS iovad iovactl)
  if(TARGET ${program})
    install(TARGETS ${program} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()

install(DIRECTORY core client DESTINATION ${iovad_headers} FILES_MATCHING PATTERN "*.h")
install(DIRECTORY proto/ DESTINATION ${CMAKE_INSTALL_DATADIR}/iovad/proto
        FILES_MATCHING PATTERN "*.proto")
get_target_property(iovad_proto_out iovad_proto BINARY_DIR)
install(DIRECTORY ${iovad_proto_out}/ DESTINATION ${iovad_headers}
        FILES_MATCHING PATTERN "*.pb.h" PATTERN CMakeFiles EXCLUDE)

configure_package_config_file(deploy/cmake/iovadConfig.cmake.in
  ${PROJECT_BINARY_DIR}/iovadConfig.cmake INSTALL_DESTINATION ${iovad_package})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/iovadConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/iovadConfig.cmake ${PROJECT_BINARY_DIR}/iovadConfigVersion.cmake
        DESTINATION ${iovad_package})
install(EXPORT iovadTargets NAMESPACE iovad:: DESTINATION ${iovad_package})
